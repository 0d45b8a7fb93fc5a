"""Packaged experiments, one YAML file each."""
