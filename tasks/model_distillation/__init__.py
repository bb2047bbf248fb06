"""Model distillation: teachers' labels, made once and kept, and the students that learn from them."""
