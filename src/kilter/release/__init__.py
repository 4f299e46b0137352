"""The release gate and the report."""
