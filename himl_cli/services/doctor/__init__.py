"""Whether everything that himl needs is in order."""
