"""The QM door: engines behind one function, one supervised child process per job."""
