"""What a person looks at while a job runs and when it is over."""
