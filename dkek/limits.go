package dkek

// MaxHolders is the most holders of one sharing, and so the most dealers.
const MaxHolders = 15

// Lengths in bytes. What is longer is refused before it is looked at.
const (
	saltSize     = 16
	subShareSize = Size + 1 + saltSize // y || x || salt

	maxSharing    = 16 << 10
	maxCiphertext = 4 << 10 // hybrid encapsulation (1120) + MaxHolders sub-shares + tag (16), and room
	maxSealed     = maxCiphertext + 512
	maxShareFile  = maxSharing + 4<<10
	maxPublicKey  = 4 << 10
)

// The seed's plain path: see [Split].
const (
	DefaultShares    = 5
	DefaultThreshold = 3
	maxPlainShares   = 255 // nonzero points of GF(2^8)
)
