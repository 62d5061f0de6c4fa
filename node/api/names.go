package api

// ShortestID is how many characters of an ID name a node, at least: fewer could be
// meant as the name of another node, like b, which may have been removed meanwhile.
const ShortestID = 4

// The names of all routes.
const (
	HealthAlive = "health.alive"
	HealthReady = "health.ready"
	HealthState = "health.state"
	OpenAPI     = "openapi"
	Metrics     = "metrics"
	WhoAmI      = "whoami"

	ClusterShow   = "cluster.show"
	ClusterStatus = "cluster.status"
	ClusterInit   = "cluster.init"
	ClusterJoin   = "cluster.join"
	ClusterRotate = "cluster.rotate-key"
	ClusterBackup = "cluster.backup"
	MemberList    = "member.list"
	MemberRemove  = "member.remove"
	MemberLeave   = "member.leave"
	TokenList     = "token.list"
	TokenCreate   = "token.create"
	TokenRemove   = "token.remove"
	SecretSeal    = "secret.seal"
	SecretPIN     = "secret.pin"
	SecretSOPIN   = "secret.so-pin"

	OperatorList   = "operator.list"
	OperatorChain  = "operator.chain"
	OperatorGovern = "operator.govern"
	PolicyShow     = "policy.show"
	ClientList     = "client.list"
	ClientAdd      = "client.add"
	ClientRemove   = "client.remove"

	DKEKStatus  = "dkek.status"
	DKEKCreate  = "dkek.create"
	DKEKReshare = "dkek.reshare"
	DKEKDrill   = "dkek.drill"

	DeviceList       = "device.list"
	DeviceInfo       = "device.info"
	DeviceReplace    = "device.replace"
	DeviceWipe       = "device.wipe"
	DeviceAside      = "device.aside"
	DeviceReseal     = "device.reseal"
	DevicePINChange  = "device.pin-change"
	DevicePINUnblock = "device.pin-unblock"

	CeremonyList    = "ceremony.list"
	CeremonyShow    = "ceremony.show"
	CeremonyApprove = "ceremony.approve"
	CeremonyDeny    = "ceremony.deny"

	KeyList          = "key.list"
	KeyShow          = "key.show"
	KeyPublic        = "key.public"
	KeyCreate        = "key.create"
	KeyRotate        = "key.rotate"
	KeyEnable        = "key.enable"
	KeyDisable       = "key.disable"
	KeyDelete        = "key.delete"
	KeyUndelete      = "key.undelete"
	KeyLabels        = "key.labels"
	KeyDestroyExcept = "key.destroy-except"
	KeySign          = "key.sign"
	KeyVerify        = "key.verify"
	KeyEncrypt       = "key.encrypt"
	KeyDecrypt       = "key.decrypt"
	KeyDerive        = "key.derive"
	KeyMAC           = "key.mac"

	Random    = "random"
	AuditList = "audit.list"
)
