"""Jobs, nights, sensors and messages."""
