"""Names, links and documents by which somebody else would have himl write, read or wait where it should not."""
