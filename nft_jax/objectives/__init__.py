"""Token losses: NFT, what it is compared with, the terms added to them, and objectives of your own."""
