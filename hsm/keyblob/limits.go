package keyblob

// Sizes of the formats and the most that is read of them, in bytes.
const (
	DKEKSize  = 32 // a DKEK, and each share of it
	KCVSize   = 8  // a key check value
	ShareFile = 64 // a .pbe file

	// MaxBlob bounds a key blob; RSA-4096 with its CRT values has under 2,000.
	MaxBlob = 4096
	// MaxFile bounds a wrapped-key file: blob, description and certificate.
	MaxFile = 16 << 10
	// MaxAlgorithms bounds a key's algorithm list.
	MaxAlgorithms = 64

	minRSABits = 1024
	maxRSABits = 4096
	macSize    = 16
	saltSize   = 8 // random bytes in front of a blob's plaintext
	maxOID     = 32
)
