"""The way of a publish: from `Publisher.publish` to its confirm."""
