"""HTTP as clients see it. The only room with Litestar; turns requests into exchanges and actions into bytes."""
