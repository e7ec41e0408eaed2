# Two commands need only python3 (3.11), make and git:  make demo   make test
