"""What an application sees: it registers handlers, gets deliveries, and says how they end."""
