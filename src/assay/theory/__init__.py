"""What attention converges to and computes, solved rather than trained."""
