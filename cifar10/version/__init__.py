"""A checkpoint version: `directory.py` is what others ask; the other files are what stands in the directory."""
