"""What a network answers: accuracy on labelled images, cost on images without labels."""
