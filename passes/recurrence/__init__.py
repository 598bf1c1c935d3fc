"""How recurrent layers are cut for threads: stacks into chunks of steps, batches into parts."""
