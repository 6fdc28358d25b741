"""Telling a run that is kept here to another workspace while it goes on."""
