"""Language models: by name, as artifacts, students of a teacher, vocabularies."""
