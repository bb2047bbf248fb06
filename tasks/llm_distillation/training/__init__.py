"""What a student's training is made of: plan, steps, ZeRO, the teacher's signal."""
