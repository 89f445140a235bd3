"""What a run leaves behind: the file of results, the table, the pictures, and the verdict on each goal."""
