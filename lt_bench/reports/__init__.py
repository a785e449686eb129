"""Records to tables, figures, the page, LaTeX and TensorBoard files: without torch."""
