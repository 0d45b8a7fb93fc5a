"""Work that runs on Ray, one file per verb."""
