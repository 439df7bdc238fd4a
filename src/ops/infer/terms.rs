//! A sorted map for the terms of an expression. Nearly all extents are one number or one symbol: one term takes no
//! memory of its own, and a few are searched faster in a row than in a tree.

use smallvec::SmallVec;

/// Keys in ascending order, each once, with their numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Terms<K>(SmallVec<[(K, i64); 1]>);

impl<K> Default for Terms<K> {
    fn default() -> Self {
        Terms(SmallVec::new())
    }
}

impl<K: Ord> Terms<K> {
    /// One term.
    pub(super) fn one(key: K, n: i64) -> Self {
        Terms(SmallVec::from_iter([(key, n)]))
    }
    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(k, _)| k.cmp(key))
    }
    pub(super) fn get(&self, key: &K) -> Option<i64> {
        Some(self.0[self.place(key).ok()?].1)
    }
    pub(super) fn insert(&mut self, key: K, n: i64) {
        match self.place(&key) {
            Ok(at) => self.0[at].1 = n,
            Err(at) => self.0.insert(at, (key, n)),
        }
    }
    pub(super) fn remove(&mut self, key: &K) {
        if let Ok(at) = self.place(key) {
            self.0.remove(at);
        }
    }
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, i64)> {
        self.0.iter().map(|(key, n)| (key, *n))
    }
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<K: Ord> FromIterator<(K, i64)> for Terms<K> {
    fn from_iter<I: IntoIterator<Item = (K, i64)>>(terms: I) -> Self {
        let mut all = Terms::default();
        terms.into_iter().for_each(|(key, n)| all.insert(key, n));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::Terms;

    #[test]
    fn terms_are_sorted_and_each_there_once() {
        let mut terms: Terms<u8> = [(3, 1), (1, 5), (3, 2)].into_iter().collect();
        terms.insert(2, 7);
        terms.remove(&1);
        terms.remove(&9);
        assert_eq!(terms.iter().collect::<Vec<_>>(), [(&2, 7), (&3, 2)]);
        assert_eq!((terms.get(&3), terms.get(&1), terms.len()), (Some(2), None, 2));
    }
}
