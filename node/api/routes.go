package api

import "net/http"

const (
	get  = http.MethodGet
	post = http.MethodPost
)

// Routes is the table of everything that can be asked for.
func Routes() []Route {
	var all []Route
	for _, part := range [][]Route{
		healthRoutes(), clusterRoutes(), peopleRoutes(), deviceRoutes(), ceremonyRoutes(), keyRoutes(), useRoutes(),
	} {
		all = append(all, part...)
	}
	return all
}

// Who may ask, by what the routes have in common.
func known() []Who     { return []Who{Operator, User, Auditor, Socket} }
func readers() []Who   { return []Who{Operator, Auditor, Socket} }
func operators() []Who { return []Who{Operator} }
func users() []Who     { return []Who{Operator, User} }
func local() []Who     { return []Who{Socket} }

func healthRoutes() []Route {
	anyone := []Who{Anyone}
	return []Route{
		{Name: HealthAlive, Method: get, Path: "/health/alive", Who: anyone, Response: Health{},
			Doc: "Answers 200 while the process runs, sealed or not."},
		{Name: HealthReady, Method: get, Path: "/health/ready", Who: anyone, Response: Health{},
			Doc: "Answers 200 where the node can use keys, else 503 with the same body."},
		{Name: HealthState, Method: get, Path: "/health/state", Who: anyone, Response: Health{},
			Doc: "Says what state the node is in; always 200."},
		{Name: OpenAPI, Method: get, Path: "/openapi.json", Who: anyone,
			Doc: "This document."},
		{Name: Metrics, Method: get, Path: "/metrics", Who: readers(),
			Doc: "Metrics in the text format of Prometheus."},
		{Name: WhoAmI, Method: get, Path: "/v1/whoami", Who: known(), Response: Identity{},
			Doc: "What the cluster knows about the caller."},
	}
}

func clusterRoutes() []Route {
	return []Route{
		{Name: ClusterShow, Method: get, Path: "/v1/cluster", Who: known(), Response: Cluster{},
			Doc: "The cluster's identity and its members' addresses and fingerprints: what a cluster file is refreshed from."},
		{Name: ClusterStatus, Method: get, Path: "/v1/status", Who: readers(), Response: Status{},
			Doc: "All that the node knows about the cluster and itself; works sealed and without a quorum."},
		{Name: ClusterInit, Method: post, Path: "/v1/cluster/init", Who: local(), Request: InitRequest{}, Response: InitResponse{}, Changes: true,
			Doc: "Makes a cluster of this one node and pins its first operator set."},
		{Name: ClusterJoin, Method: post, Path: "/v1/cluster/join", Who: local(), Request: JoinRequest{}, Response: JoinResponse{}, Changes: true,
			Doc: "Makes this node join a cluster by a token."},
		{Name: ClusterRotate, Method: post, Path: "/v1/cluster/rotate-key", Who: local(), Request: RotateNodeKeyRequest{}, Response: RotateNodeKeyResponse{}, Changes: true,
			Doc: "Gives this node a new key. Refused while a ceremony involves the node, and while a member does not know the rotation before."},
		{Name: ClusterBackup, Method: get, Path: "/v1/cluster/backup", Who: []Who{Operator, Socket},
			Doc: "A backup file of the newest state, signed by the node: docs/format.md says what is in it. Refused without a quorum."},
		{Name: MemberList, Method: get, Path: "/v1/members", Who: readers(), Response: Members{},
			Doc: "The members."},
		{Name: MemberRemove, Method: post, Path: "/v1/members/remove", Who: operators(), Request: MemberRemoveRequest{}, Response: Ack{}, Changes: true,
			Doc: "Removes a member and cuts its connections. Refused where fewer holders than the threshold would remain, or those that answer would be no majority, or too few with a readable share."},
		{Name: MemberLeave, Method: post, Path: "/v1/members/leave", Who: operators(), Request: MemberLeaveRequest{}, Response: Ack{}, Changes: true,
			Doc: "Makes the node that is asked leave the cluster, by the same rules as a removal."},
		{Name: TokenList, Method: get, Path: "/v1/tokens", Who: readers(), Response: Tokens{},
			Doc: "The join tokens, without their secrets, which the cluster never knew."},
		{Name: TokenCreate, Method: post, Path: "/v1/tokens", Who: operators(), Request: TokenCreateRequest{}, Response: Token{}, Changes: true,
			Doc: "Registers a join token by the fingerprint of its public key."},
		{Name: TokenRemove, Method: post, Path: "/v1/tokens/remove", Who: operators(), Request: TokenRemoveRequest{}, Response: Ack{}, Changes: true,
			Doc: "Makes a join token useless."},
		{Name: SecretSeal, Method: post, Path: "/v1/secret/seal", Who: local(), Secrets: []string{"seal secret"}, Response: Health{},
			Doc: "Gives a sealed node its seal secret."},
		{Name: SecretPIN, Method: post, Path: "/v1/secret/pin", Who: local(), Secrets: []string{"PIN"}, Response: Health{},
			Doc: "Gives the node the PIN of its device. It is sent to the device once."},
		{Name: SecretSOPIN, Method: post, Path: "/v1/secret/so-pin", Who: local(), Secrets: []string{"SO-PIN"}, Response: Health{},
			Doc: "Gives the node the SO-PIN for the next provision; it is wiped afterwards."},
	}
}

func peopleRoutes() []Route {
	return []Route{
		{Name: OperatorList, Method: get, Path: "/v1/operators", Who: readers(), Response: OperatorSet{},
			Doc: "The operator set that the node has pinned."},
		{Name: OperatorChain, Method: get, Path: "/v1/operators/chain", Who: readers(), Query: ChainQuery{}, Response: GovernChain{},
			Doc: "The signed changes of the operator set since a number, to be verified by the caller."},
		{Name: OperatorGovern, Method: post, Path: "/v1/operators/govern", Who: operators(), Request: GovernRequest{}, Response: Ceremony{}, Changes: true,
			Doc: "Opens a govern ceremony: operators, approvals needed, policy."},
		{Name: PolicyShow, Method: get, Path: "/v1/policy", Who: known(), Response: Policy{},
			Doc: "What holds for all keys and sharings."},
		{Name: ClientList, Method: get, Path: "/v1/clients", Who: readers(), Response: Clients{},
			Doc: "The users and auditors."},
		{Name: ClientAdd, Method: post, Path: "/v1/clients", Who: operators(), Request: ClientAddRequest{}, Response: Client{}, Changes: true,
			Doc: "Adds a user or an auditor."},
		{Name: ClientRemove, Method: post, Path: "/v1/clients/remove", Who: operators(), Request: ClientRemoveRequest{}, Response: Ack{}, Changes: true,
			Doc: "Removes a client and cuts its connections."},
		{Name: AuditList, Method: get, Path: "/v1/audit", Who: readers(), Query: AuditQuery{}, Response: Audit{},
			Doc: "The audit records, hash-chained, oldest first."},
	}
}

func deviceRoutes() []Route {
	return []Route{
		{Name: DeviceList, Method: get, Path: "/v1/devices", Who: readers(), Response: Devices{},
			Doc: "The members' devices as they last reported."},
		{Name: DeviceInfo, Method: get, Path: "/v1/device", Who: readers(), Query: DeviceQuery{}, Response: DeviceDetails{},
			Doc: "What a node says about its device now."},
		{Name: DeviceReplace, Method: post, Path: "/v1/device/replace", Who: operators(), Request: ReplaceRequest{}, Response: Ceremony{}, Changes: true,
			Doc: "Opens a provision ceremony for the blank device of a node. Refused where the device has the DKEK."},
		{Name: DeviceWipe, Method: post, Path: "/v1/device/wipe", Who: []Who{Operator, Socket}, Request: WipeRequest{}, Response: Ack{}, Changes: true,
			Doc: "Erases a device, at a word that an operator signed; on the socket the node's own only, without. Refused where it holds a key not proven elsewhere."},
		{Name: DeviceAside, Method: post, Path: "/v1/device/aside", Who: operators(), Request: AsideRequest{}, Response: Ack{}, Changes: true,
			Doc: "Adopts or deletes an object that was kept aside, at a word that an operator signed."},
		{Name: DeviceReseal, Method: post, Path: "/v1/device/reseal", Who: local(), Secrets: []string{"present seal secret", "new seal secret"}, Response: Ack{}, Changes: true,
			Doc: "Seals the node's key, share and software device under a new seal secret."},
		{Name: DevicePINChange, Method: post, Path: "/v1/device/pin/change", Who: local(), Secrets: []string{"present PIN", "new PIN"}, Response: Ack{}, Changes: true,
			Doc: "Changes the PIN of the node's device."},
		{Name: DevicePINUnblock, Method: post, Path: "/v1/device/pin/unblock", Who: local(), Secrets: []string{"SO-PIN", "new PIN"}, Response: Ack{}, Changes: true,
			Doc: "Sets a new PIN by the SO-PIN, with full tries. An empty one of the two is that which the node itself reads or derives."},
	}
}

func ceremonyRoutes() []Route {
	return []Route{
		{Name: DKEKStatus, Method: get, Path: "/v1/dkek", Who: readers(), Response: DKEK{},
			Doc: "The public state of the DKEK: sharing, epoch, holders and their shares' health."},
		{Name: DKEKCreate, Method: post, Path: "/v1/dkek/create", Who: operators(), Request: CreateDKEKRequest{}, Response: Ceremony{}, Changes: true,
			Doc: "Opens the ceremony that deals the DKEK and provisions every device."},
		{Name: DKEKReshare, Method: post, Path: "/v1/dkek/reshare", Who: operators(), Request: ReshareRequest{}, Response: Ceremony{}, Changes: true,
			Doc: "Opens a ceremony that shares the same DKEK anew."},
		{Name: DKEKDrill, Method: post, Path: "/v1/dkek/drill", Who: operators(), Request: DrillRequest{}, Response: Ceremony{}, Changes: true,
			Doc: "Opens a drill: shares and a sample of blobs proven on a scratch device."},
		{Name: CeremonyList, Method: get, Path: "/v1/ceremonies", Who: readers(), Query: CeremonyListQuery{}, Response: Ceremonies{},
			Doc: "The ceremonies, newest first, without their Open bytes."},
		{Name: CeremonyShow, Method: get, Path: "/v1/ceremony", Who: readers(), Query: CeremonyQuery{}, Response: Ceremony{},
			Doc: "One ceremony with the exact bytes that operators sign; waits for a change where asked to."},
		{Name: CeremonyApprove, Method: post, Path: "/v1/ceremony/approve", Who: operators(), Request: CeremonySignRequest{}, Response: Ceremony{}, Changes: true,
			Doc: "Hands in an operator's signature over a ceremony's Open. The signature counts, not the caller."},
		{Name: CeremonyDeny, Method: post, Path: "/v1/ceremony/deny", Who: operators(), Request: CeremonySignRequest{}, Response: Ceremony{}, Changes: true,
			Doc: "Ends an open ceremony by an operator's signature."},
	}
}

func keyRoutes() []Route {
	return []Route{
		{Name: KeyList, Method: get, Path: "/v1/keys", Who: []Who{Operator, User, Auditor}, Verb: VerbList, Query: KeyListQuery{}, Response: Keys{},
			Doc: "A page of the keys that the caller may see, by name."},
		{Name: KeyShow, Method: get, Path: "/v1/key", Who: []Who{Operator, User, Auditor}, Verb: VerbList, Query: KeyQuery{}, Response: Key{},
			Doc: "One key with its versions."},
		{Name: KeyPublic, Method: get, Path: "/v1/key/public", Who: []Who{Operator, User, Auditor}, Verb: VerbList, Query: KeyQuery{}, Response: PublicKey{},
			Doc: "The public half of one version. AES keys have none: not_allowed."},
		{Name: KeyCreate, Method: post, Path: "/v1/keys", Who: users(), Verb: VerbCreate, Request: KeyCreateRequest{}, Response: Key{}, Changes: true,
			Doc: "Makes a key. The answer comes when it is committed and proven."},
		{Name: KeyRotate, Method: post, Path: "/v1/key/rotate", Who: users(), Verb: VerbRotate, Request: KeyRequest{}, Response: Key{}, Changes: true,
			Doc: "Adds a version and makes it the newest."},
		{Name: KeyEnable, Method: post, Path: "/v1/key/enable", Who: users(), Verb: VerbManage, Request: KeyRequest{}, Response: Key{}, Changes: true,
			Doc: "Lets disabled versions be used again."},
		{Name: KeyDisable, Method: post, Path: "/v1/key/disable", Who: users(), Verb: VerbManage, Request: KeyRequest{}, Response: Key{}, Changes: true,
			Doc: "Keeps versions from being used."},
		{Name: KeyDelete, Method: post, Path: "/v1/key/delete", Who: users(), Verb: VerbManage, Request: KeyDeleteRequest{}, Response: Key{}, Changes: true,
			Doc: "Starts the wait at whose end versions are destroyed everywhere."},
		{Name: KeyUndelete, Method: post, Path: "/v1/key/undelete", Who: users(), Verb: VerbManage, Request: KeyRequest{}, Response: Key{}, Changes: true,
			Doc: "Calls off a pending deletion."},
		{Name: KeyLabels, Method: post, Path: "/v1/key/labels", Who: users(), Verb: VerbManage, Request: KeyLabelsRequest{}, Response: Key{}, Changes: true,
			Doc: "Replaces the labels of a key."},
		{Name: KeyDestroyExcept, Method: post, Path: "/v1/key/destroy-except", Who: operators(), Request: DestroyExceptRequest{}, Response: Key{}, Changes: true,
			Doc: "Calls a version destroyed except on nodes that will not confirm."},
	}
}

func useRoutes() []Route {
	return []Route{
		{Name: KeySign, Method: post, Path: "/v1/key/sign", Who: users(), Verb: VerbSign, Request: SignRequest{}, Response: SignResponse{},
			Doc: "Signs digests, or whole messages for Ed25519."},
		{Name: KeyVerify, Method: post, Path: "/v1/key/verify", Who: users(), Verb: VerbVerify, Request: VerifyRequest{}, Response: VerifyResponse{},
			Doc: "Checks a signature under the replicated public key."},
		{Name: KeyEncrypt, Method: post, Path: "/v1/key/encrypt", Who: users(), Verb: VerbEncrypt, Request: EncryptRequest{}, Response: EncryptResponse{},
			Doc: "Encrypts: AES-GCM in the device, RSA-OAEP under the public key."},
		{Name: KeyDecrypt, Method: post, Path: "/v1/key/decrypt", Who: users(), Verb: VerbDecrypt, Request: DecryptRequest{}, Response: DecryptResponse{},
			Doc: "Decrypts."},
		{Name: KeyDerive, Method: post, Path: "/v1/key/derive", Who: users(), Verb: VerbDerive, Request: DeriveRequest{}, Response: DeriveResponse{},
			Doc: "Agrees with a peer's public key by ECDH."},
		{Name: KeyMAC, Method: post, Path: "/v1/key/mac", Who: users(), Verb: VerbMAC, Request: MACRequest{}, Response: MACResponse{},
			Doc: "Computes an AES-CMAC."},
		{Name: Random, Method: get, Path: "/v1/random", Who: users(), Verb: VerbRandom, Query: RandomQuery{}, Response: RandomResponse{},
			Doc: "Random bytes from the device's own generator."},
	}
}
