"""What the notebooks need beyond the method: studies, training, measuring, reports and the runner."""
