"""aiormq, used as its documentation shows: https://github.com/mosquito/aiormq#simple-consumer."""
