"""The stages of dvc.yaml, one file each: read the sections, call the library, write the outputs."""
