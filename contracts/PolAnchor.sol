// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

/// @title PolAnchor
/// @notice Dates the heads of polchain logs. Whoever calls is named, and the block says when; nothing is stored, and
/// nobody owns, upgrades, pauses or pays this contract.
/// @dev The address is the same on every chain: CREATE2 by the deterministic deployment proxy
/// 0x4e59b44847b379578588920cA78FbF26c0B4956C, salt zero. The address commits to the code.
contract PolAnchor {
    /// @notice `prover` published a head.
    /// @param prover The caller: the account that the log's genesis binds, or any other, which then proves nothing.
    /// @param log SHA-256 of the log's origin; zero for a batch.
    /// @param root The RFC 6962 root of the log's entries; for a batch, of its signed heads.
    /// @param size How many entries the log has; for a batch, how many heads.
    event Anchored(address indexed prover, bytes32 indexed log, bytes32 root, uint64 size);

    /// @notice Publish a head.
    /// @dev Takes any values: a claim means something only with the signed head that it fits.
    /// @param log SHA-256 of the log's origin; zero for a batch.
    /// @param root The root that is published.
    /// @param size How many leaves are under the root.
    function anchor(bytes32 log, bytes32 root, uint64 size) external {
        emit Anchored(msg.sender, log, root, size);
    }
}
