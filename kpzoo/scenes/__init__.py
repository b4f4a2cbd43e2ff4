"""Generated data sets: drawn figures, and crowds composed of annotated photos."""
