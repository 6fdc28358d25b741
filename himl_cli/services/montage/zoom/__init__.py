"""A montage as a Deep Zoom pyramid, and the page that shows it."""
