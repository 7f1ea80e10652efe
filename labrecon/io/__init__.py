"""Files: volumes, solver states, provenance, and outputs that are whole or not there."""
