"""File formats of MR scanners and toolboxes."""
