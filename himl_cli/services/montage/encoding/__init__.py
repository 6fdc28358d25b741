"""Picture files that are written band by band."""
