"""What a job does with its model, one function a stage: its settings section and inputs in, a result out."""
