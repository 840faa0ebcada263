"""The ground floor: errors, configuration, files, console, machine. It knows nothing about models."""
