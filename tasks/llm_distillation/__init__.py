"""Language models: students that learn from teachers, the text they learn from, and how they are judged."""
