"""What a picture looks like while it forms, and how pictures are read and written: functions from pixels to bytes."""
