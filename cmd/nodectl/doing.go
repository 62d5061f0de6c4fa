package main

import "github.com/keycustodian/keycustodian/node/api"

// doing says what is waited for while a route is asked, to a person who knows no
// routes.
func doing(route string) string {
	if text, ok := routeTexts()[route]; ok {
		return text
	}
	return "waiting for the node"
}

func routeTexts() map[string]string {
	return map[string]string{
		api.WhoAmI: "asking who you are", api.ClusterShow: "asking for the members", api.ClusterStatus: "asking for the status",
		api.ClusterInit: "making the cluster", api.ClusterJoin: "joining", api.ClusterRotate: "rotating the node's key",
		api.ClusterBackup: "fetching the backup",
		api.MemberList:    "listing members", api.MemberRemove: "removing the member", api.MemberLeave: "waiting for the node to leave",
		api.TokenList: "listing tokens", api.TokenCreate: "registering the token", api.TokenRemove: "removing the token",
		api.SecretSeal: "unsealing the node", api.SecretPIN: "giving the node its PIN", api.SecretSOPIN: "giving the node its SO-PIN",

		api.OperatorList: "listing operators", api.OperatorChain: "fetching the changes of the operators", api.OperatorGovern: "opening the ceremony",
		api.PolicyShow: "asking for the policy",
		api.ClientList: "listing clients", api.ClientAdd: "adding the client", api.ClientRemove: "removing the client",

		api.DKEKStatus: "asking for the DKEK's state", api.DKEKCreate: "opening the ceremony", api.DKEKReshare: "opening the ceremony", api.DKEKDrill: "opening the ceremony",
		api.DeviceList: "listing devices", api.DeviceInfo: "asking for the device", api.DeviceReplace: "opening the ceremony",
		api.DeviceWipe: "wiping the device", api.DeviceAside: "dealing with the object that is kept aside", api.DeviceReseal: "sealing anew",
		api.DevicePINChange: "changing the PIN", api.DevicePINUnblock: "unblocking the PIN",
		api.CeremonyList: "listing ceremonies", api.CeremonyShow: "asking for the ceremony", api.CeremonyApprove: "sending the approval", api.CeremonyDeny: "denying the ceremony",

		api.KeyList: "listing keys", api.KeyShow: "asking for the key", api.KeyPublic: "asking for the public key",
		api.KeyCreate: "making the key", api.KeyRotate: "adding a version", api.KeyEnable: "enabling the key", api.KeyDisable: "disabling the key",
		api.KeyDelete: "deleting the key", api.KeyUndelete: "calling the deletion off", api.KeyLabels: "replacing the labels",
		api.KeyDestroyExcept: "waiving the confirmation",
		api.KeySign:          "signing", api.KeyVerify: "verifying", api.KeyEncrypt: "encrypting", api.KeyDecrypt: "decrypting",
		api.KeyDerive: "agreeing on the secret", api.KeyMAC: "making the MAC",
		api.Random: "fetching random bytes", api.AuditList: "fetching audit records",
	}
}
