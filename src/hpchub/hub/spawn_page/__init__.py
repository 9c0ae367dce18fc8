"""What people see between choosing a job and working in it."""
