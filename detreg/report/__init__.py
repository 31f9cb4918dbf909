"""What every report is made of: a page, its colors, its figures, and boxes drawn on images."""
