"""The measurements behind the speed, memory and accuracy claims of the docs."""
