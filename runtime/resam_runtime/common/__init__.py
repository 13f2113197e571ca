"""What every room of the runtime uses: errors, whole files, extras, checked values, what commands share."""
