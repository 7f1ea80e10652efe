"""Files that LED controllers load."""
