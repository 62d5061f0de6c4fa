package soft

// Every maximum of the software device.
const (
	// DefaultSlots is how many keys fit where Options.Slots is 0.
	DefaultSlots = 1 << 17
	// MaxSlots is the largest Options.Slots.
	MaxSlots = 1 << 20

	maxSerial    = 32       // bytes of Options.Serial
	maxInitLabel = 32       // bytes of a device label
	maxTries     = 10       // user PIN tries
	defaultTries = 3        // user PIN tries where InitOptions.Tries is 0
	soTries      = 15       // SO-PIN tries for the life of the device
	maxShares    = 255      // one byte in the card's commands
	maxSealed    = 16 << 10 // bytes of one sealed record
	maxSymmetric = 1 << 20  // bytes of one Seal or CMAC
	cachedKeys   = 2048     // parsed private keys kept in memory
	compactFrom  = 1 << 20  // garbage bytes from which a file is rewritten
	minPIN       = 6        // bytes of a user PIN
	maxPIN       = 15
	soPINSize    = 8
	rsaExponent  = 65537
)
