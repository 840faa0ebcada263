"""The recipes with which pomona enters `time_to_loss`: each is one short function of the public interface."""
