"""Where other people's code and tests run: shut in by the system, limited, and put back after each run."""
