"""Many scans, unattended: the manifest, the worker processes, and the loop around them."""
