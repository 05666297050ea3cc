"""One module per version; a version that was released never changes."""
