"""What jobs share: their context, figures, and numerical parts."""
