"""Other simulators, one file each, on the job of ``bench/job.py``; none of them imports fedkd."""
