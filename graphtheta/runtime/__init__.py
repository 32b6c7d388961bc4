"""Process-wide tuning: threads, memory allocation, buffers and cache folders."""
