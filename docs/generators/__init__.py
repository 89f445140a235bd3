"""What makes the pages of the reference from the code: one module for each page, with a function `page`."""
